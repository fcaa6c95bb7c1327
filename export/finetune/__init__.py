"""Fine-tuning: any family, COCO, VOC or YOLO data, one phrase a class sampled each step."""
